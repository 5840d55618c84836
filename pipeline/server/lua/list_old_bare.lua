-- list_old_bare: puts copies of a task back that have stood in old workers' processing list without a record for long
-- enough: only as many as are more than records now, and have been for a full old timeout.
--
-- KEYS  1 old workers' processing list  2 the list  3 …:list:seen  4 S:never  5… keys under which a record of it may be
-- ARGV  1 left or right: the end that tasks are pushed to  2 the task  3 its digest: the field in …:list:seen
--       4 old timeout, ms  5 most copies  6 how far into the processing list to look, from its tail
-- Returns how many were put back.
--
-- …:list:seen is as list_old_seen writes it. The copies nearest to the tail are removed, the oldest.

local seen = redis.pcall('HMGET', KEYS[3], '@', ARGV[3])
if seen['err'] then return seen end
local observed = tonumber(string.match(seen[1] or '', '^(%d+)') or 0)
local levels, long = {}, 0
for since, count in string.gmatch(seen[2] or '', '(%d+)=(%d+)') do
  levels[#levels + 1] = {tonumber(since), tonumber(count)}
  if observed - since >= tonumber(ARGV[4]) then long = long + count end
end
if long == 0 then return 0 end

local stand = redis.pcall('LPOS', KEYS[1], ARGV[2], 'RANK', -1, 'COUNT', 0, 'MAXLEN', ARGV[6])
if stand['err'] then return stand end
local more = #stand
local now = redis.call('TIME')[1]
for i = 5, #KEYS do
  local record = redis.pcall('HMGET', KEYS[i], 'task', 'timestamp', 'timeout') -- of another type: no record
  if not record['err'] and record[1] == ARGV[2] then
    local since, limit = tonumber(record[2] or ''), tonumber(record[3] or '0')
    if since and since <= now + 86400 and limit and limit >= 0 then more = more - 1 end
  end
end
local take = math.min(long, more, tonumber(ARGV[5]))
if take <= 0 then return 0 end

redis.call('DEL', KEYS[4])
local copies = {}
for i = 1, take do copies[i] = ARGV[2] end
local left = ARGV[1] == 'left'
local added = redis.pcall(left and 'LPUSH' or 'RPUSH', KEYS[2], unpack(copies))
if type(added) == 'table' then return added end
local removed = redis.pcall('LREM', KEYS[1], -take, ARGV[2])
if type(removed) == 'table' then -- they may not be taken out: they stay where they are, and only there
  redis.pcall('LTRIM', KEYS[2], left and take or 0, left and -1 or -take - 1)
  return removed
end
local rest, gone = {}, take
for _, level in ipairs(levels) do
  local off = math.min(level[2], gone)
  gone = gone - off
  if level[2] > off then rest[#rest + 1] = string.format('%d=%d', level[1], level[2] - off) end
end
if #rest > 0 then
  redis.pcall('HSET', KEYS[3], ARGV[3], (string.match(seen[2], '^@%S* ') or '@ ') .. table.concat(rest, ' '))
else
  redis.pcall('HDEL', KEYS[3], ARGV[3])
end
return take
