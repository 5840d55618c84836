-- append: adds a producer's batch to a stream at most once, however often it is sent.
--
-- KEYS  1 stream  2 S:producer:<id>  3 S:source:<id> (S:never where the batch has no source)
--       4… S:ids:<id> of those entries that carry an id to deduplicate by, in the order of the entries
-- ARGV  1 number n of this batch  2 base: the producer's lowest unconfirmed number  3 ms until the record expires
--       4 1 to renew that, 0 if it was renewed lately  5 hard cap in entries, 0 for none  6 ms until S:ids expire
--       7 the source's position before this batch  8 and after it (both empty without a source)
--       9 1 if every entry is h and b alone (then only their values follow), 0 if each is led by its number of values
--       10 number of entries  11 ms until the source's position expires, 0 for never
--       12… which entries KEYS 4… belong to, counted from 1, then the entries
-- Returns {status, text}:
--       ok        appended now                    text: first id, how many were appended, and for each entry that
--       repeated  appended before                       was not, as its S:ids exists: `which=id`, separated by spaces
--       gap       a batch before it is missing    text: the last number appended; nothing was done
--       position  the source stands elsewhere     text: its position; nothing was done
--       forgotten older than the record reaches   text: the last number appended; nothing was done
--
-- Entries first, record last: what fails in between leaves no entry behind. The first write is one that the server
-- refuses when out of memory, so a batch is refused as a whole. One id is the server's choice and the others count on
-- from it, so that 16 batches are remembered in a few bytes each: what n left stands in the field n % 16, with n before
-- it, as numbers may be left out. A repeat renews the record's expiry whatever was asked: a write, so that a WAIT behind
-- it covers the first append.

local n = tonumber(ARGV[1])
local seen = redis.pcall('HMGET', KEYS[2], 'last', n % 16)
if seen['err'] then return seen end
local last = tonumber(seen[1] or 0)
if n <= last then
  local of, record = string.match(seen[2] or '', '^(%d+)=(.*)$')
  if of ~= ARGV[1] then return {'forgotten', tostring(last)} end
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return {'repeated', record}
end
-- After a failover or an expiry the numbers before base may be unknown here; the producer knows how they ended.
if n ~= last + 1 and n ~= tonumber(ARGV[2]) then return {'gap', tostring(last)} end

local source = ARGV[8] ~= ''
if source then
  local position = redis.pcall('GET', KEYS[3])
  if type(position) == 'table' then return position end
  if position and position ~= ARGV[7] then return {'position', position} end
end

local stream, plain, entries = KEYS[1], ARGV[9] == '1', tonumber(ARGV[10])
local ids = #KEYS - 3
local at = 12 + ids
local key, due = 4, ids > 0 and tonumber(ARGV[12]) or 0
local first, prefix, seq, count, skipped = '', '', 0, 0, {}
local call, argv = redis.pcall, ARGV

local function add(id, from, size)
  if plain then return call('XADD', stream, id, 'h', argv[from], 'b', argv[from + 1]) end
  return call('XADD', stream, id, unpack(argv, from + 1, from + size))
end

-- Nothing is known that could fail after the first entry; should it happen, the batch leaves no trace.
local function undo(failure)
  for i = 0, count - 1 do redis.pcall('XDEL', stream, prefix .. string.format('%d', seq + i)) end
  for i = 4, key - 1 do
    local id = redis.pcall('GET', KEYS[i])
    for j = 0, count - 1 do
      if id == prefix .. string.format('%d', seq + j) then redis.pcall('DEL', KEYS[i]) end
    end
  end
  return failure
end

-- `ms-*`: the server counts on from the entry before, without a number to be written and read for each. Below 7.0 it
-- is unknown, and refused before anything is done: then the number it is.
local onward, counted = '*', false
local i, type = 1, type
while i <= entries do
  local size = plain and 2 or tonumber(ARGV[at])
  local known = false
  if i == due then
    known = redis.pcall('GET', KEYS[key])
    if type(known) == 'table' then return undo(known) end
  end
  if known then
    skipped[#skipped + 1] = i .. '=' .. known
  else
    if size > 4000 then return undo(redis.error_reply('ERR an entry of ' .. size .. ' values exceeds 4000')) end
    if counted then onward = prefix .. string.format('%d', seq + count) end
    local id = add(onward, at, size)
    if type(id) == 'table' and count == 1 and not counted and string.find(id['err'], 'Invalid stream ID', 1, true) then
      counted = true
      id = add(prefix .. string.format('%d', seq + 1), at, size)
    end
    if type(id) == 'table' then return undo(id) end
    if count == 0 then
      local dash = string.find(id, '-', 1, true)
      first, prefix, seq = id, string.sub(id, 1, dash), tonumber(string.sub(id, dash + 1))
      if seq > 1e13 then  -- beyond what a Lua number prints exactly
        redis.call('XDEL', stream, id)
        return redis.error_reply('ERR the stream ends in an entry id that cannot be counted on from: ' .. id)
      end
      onward = prefix .. '*'
    end
    count = count + 1
    if i == due then redis.call('SET', KEYS[key], id, 'PX', ARGV[6]) end
  end
  if i == due then
    key = key + 1
    due = key <= #KEYS and tonumber(ARGV[8 + key]) or 0
  end
  at = at + (plain and 2 or size + 1)
  i = i + 1
  -- The rest, as far as nothing has to be looked up, without a step that could be spared; what is refused comes again.
  if plain and count > 0 and not counted then
    local upto = due > 0 and due - 1 or entries
    while i <= upto do
      if type(call('XADD', stream, onward, 'h', argv[at], 'b', argv[at + 1])) == 'table' then break end
      count, i, at = count + 1, i + 1, at + 2
    end
  end
end

if ARGV[5] ~= '0' then redis.call('XTRIM', stream, 'MAXLEN', '~', ARGV[5]) end
if source then
  if ARGV[11] == '0' then redis.call('SET', KEYS[3], ARGV[8])
  else redis.call('SET', KEYS[3], ARGV[8], 'PX', ARGV[11]) end
end
local record = first .. ' ' .. count .. ' ' .. table.concat(skipped, ' ')
redis.call('HSET', KEYS[2], 'last', ARGV[1], n % 16, ARGV[1] .. '=' .. record)
if ARGV[4] == '1' or not seen[1] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return {'ok', record}
