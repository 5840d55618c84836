-- list_return: gives back to a list what was taken off it and begun by nobody: the hand, and what callers of list_pop who
-- died never said they have.
--
-- KEYS  1 list (or sorted set)  2 hand  3 popped  4 S:never
-- ARGV  1 where the next task stands: left, right, or lowest (of a sorted set)
--       2 a token is given back when it is older than this, ms  3 1: the hand, too  4 most tasks, at most 500
--       5… tokens, at most 100: those that are given back, whatever their age, and no others
-- Returns {tasks of callers, tasks of the hand}.
--
-- All goes to where the next task stands, those that were taken first outermost. What another worker was just about to
-- take out of the hand he finds there as well. What has no score any more stays in the hand of a sorted set.

redis.call('DEL', KEYS[4])
local left = tonumber(ARGV[4])
local sorted = ARGV[1] == 'lowest'
local push = ARGV[1] == 'left' and 'LPUSH' or 'RPUSH'
local from_hand, from_callers = 0, 0
if ARGV[3] == '1' and not sorted then
  local handed = redis.pcall('LRANGE', KEYS[2], 0, left - 1)
  if handed['err'] then return handed end
  for i = 1, #handed do -- the last that came first
    local put = redis.pcall(push, KEYS[1], handed[i])
    if type(put) == 'table' then return put end
    redis.call('LPOP', KEYS[2])
    from_hand = from_hand + 1
  end
  left = left - from_hand
end

local now = redis.call('TIME')
local latest = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[2])
local kept = redis.pcall('HLEN', KEYS[3])
if type(kept) == 'table' then return kept end
if kept == 0 then return {0, from_hand} end
local fields = {}
if #ARGV > 4 then
  latest = math.huge
  for i = 5, #ARGV do
    local record = redis.call('HGET', KEYS[3], ARGV[i])
    if record then fields[#fields + 1], fields[#fields + 2] = ARGV[i], record end
  end
elseif kept <= 100 then
  fields = redis.call('HGETALL', KEYS[3])
else -- a sample, so that a call stays short
  fields = redis.call('HRANDFIELD', KEYS[3], 100, 'WITHVALUES')
end
local old = {}
for i = 1, #fields, 2 do
  local record = cmsgpack.unpack(fields[i + 1])
  if tonumber(record[1]) <= latest then old[#old + 1] = {fields[i], record} end
end
table.sort(old, function(a, b) return tonumber(a[2][1]) > tonumber(b[2][1]) end) -- the newest first
for _, one in ipairs(old) do
  local members, scores = one[2][2], one[2][3]
  if left < #members then break end
  for i = #members, 1, -1 do
    local put
    if not sorted then
      put = redis.pcall(push, KEYS[1], members[i])
    elseif scores[i] == '' then
      put = redis.pcall('RPUSH', KEYS[2], members[i])
    else
      put = redis.pcall('ZADD', KEYS[1], 'NX', scores[i], members[i])
    end
    if type(put) == 'table' then return put end
  end
  redis.call('HDEL', KEYS[3], one[1])
  from_callers = from_callers + #members
  left = left - #members
end
return {from_callers, from_hand}
