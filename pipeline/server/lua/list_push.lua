-- list_push: adds tasks to a list queue, or to its delayed ones, at most once however often the call is sent.
--
-- KEYS  1 where they go: the list, the sorted set of a priority queue, or that of delayed tasks
--       2 …:producer:<id>, beside it
-- ARGV  1 number of this call, above all earlier ones of the producer  2 ms until the record expires
--       3 left or right: the list's end; unique or classic: members of a sorted set
--       4 score  5 what it is: '' a priority; at: when they are due; ms or s: how long from now on in ms they are due,
--       which is kept in ms or in s
--       6 what a unique member has between its id and the payload  7… payloads, in order
-- Returns {status, text}:
--       ok        added now     text: how many stand there now, when they are due ('' now), and for each classic member
--       repeated  added before        that was there already: `which=its score before`, counted from 1
--       stale     a later call of the producer was carried out: nothing was done    text: its number
--
-- A producer waits for one call's end before it makes the next. All is added by one command, the script's first write,
-- and the record last: what is refused (out of memory, another type) is refused whole. unique: the member is
-- `<id>:<payload>`, the id 16 hex digits of the server's time in us and the place in the call, so that equal scores keep
-- the order of their calls. classic: the member is the payload, and the later call's score wins, as with old code.

local n = tonumber(ARGV[1])
local seen = redis.pcall('HMGET', KEYS[2], 'last', 'pushed')
if seen['err'] then return seen end
local last = tonumber(seen[1] or 0)
if n == last then
  redis.call('PEXPIRE', KEYS[2], ARGV[2]) -- a write, so that a WAIT behind it covers the first push
  return {'repeated', seen[2] or '0 '}
elseif n < last then
  return {'stale', seen[1]}
end

local kind, first = ARGV[3], 7
local length, score, before = 0, '', {}
local undo -- should the record be refused (a right to one command may be missing), nothing is left behind
if kind == 'left' or kind == 'right' then
  length = redis.pcall(kind == 'left' and 'LPUSH' or 'RPUSH', KEYS[1], unpack(ARGV, first))
  if type(length) == 'table' then return length end
  local added = #ARGV - first + 1
  undo = function()
    redis.pcall('LTRIM', KEYS[1], kind == 'left' and added or 0, kind == 'left' and -1 or -added - 1)
  end
else
  local time = redis.call('TIME')
  local us = time[1] * 1000000 + time[2]
  score = ARGV[4]
  if ARGV[5] == 'ms' or ARGV[5] == 's' then
    local due_ms = math.floor(us / 1000) + tonumber(score)
    score = ARGV[5] == 'ms' and string.format('%d', due_ms) or string.format('%.3f', due_ms / 1000)
  end
  local members, there
  repeat -- an id that is there already: the clock was set back
    members = {}
    for i = first, #ARGV do
      members[#members + 1] = kind == 'classic' and ARGV[i]
        or string.format('%013x%03x:', us, i - first) .. ARGV[6] .. ARGV[i]
    end
    there = redis.pcall('ZMSCORE', KEYS[1], unpack(members))
    if there['err'] then return there end
    us = us + 1
    local taken = false
    for i = 1, #members do taken = taken or there[i] end
  until kind == 'classic' or not taken
  local pairs_of, known = {}, {}
  for i, member in ipairs(members) do
    local was = known[member] or there[i]
    if was then before[#before + 1] = i .. '=' .. was end
    known[member] = score
    pairs_of[2 * i - 1], pairs_of[2 * i] = score, member
  end
  local added = redis.pcall('ZADD', KEYS[1], unpack(pairs_of))
  if type(added) == 'table' then return added end
  length = redis.pcall('ZCARD', KEYS[1])
  if type(length) == 'table' then length = 0 end
  undo = function()
    for i, member in ipairs(members) do
      if there[i] then redis.pcall('ZADD', KEYS[1], there[i], member) else redis.pcall('ZREM', KEYS[1], member) end
    end
  end
end

local said = length .. ' ' .. (ARGV[5] == '' and '' or score) .. ' ' .. table.concat(before, ' ')
local noted = redis.pcall('HSET', KEYS[2], 'last', ARGV[1], 'pushed', said)
if type(noted) == 'table' then
  undo()
  return noted
end
redis.pcall('PEXPIRE', KEYS[2], ARGV[2])
return {'ok', said}
