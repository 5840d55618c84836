-- list_hold: the first of two steps by which delayed tasks come to a list in another slot: has those that are due held.
--
-- KEYS  1 the sorted set of delayed tasks, in the classic format  2 …:list:held:<list>, beside it: a number, then the
--       tasks that were moved under it  3 S:never, beside it  4 what says which list KEYS 1 belongs to
-- ARGV  1 most tasks  2 the number that was placed by the step before, or '': it need not be held any more
--       3 the list's name, for KEYS 4  4 ms for which it stands there
-- Returns {number, next due ms or '', payload…}: what is to be placed now, the latest due first; no payload: nothing. Or
--       {'other', list}: KEYS 1 belongs to that list.
--
-- As long as tasks are held no others are moved, so that any number of promoters go on with the same. A number is above
-- all earlier ones, also when the key is lost, or the clock set back.

local kept = redis.pcall('LRANGE', KEYS[2], 0, -1)
if kept['err'] then return kept end
local number = tonumber(kept[1] or 0)
if #kept > 1 and kept[1] == ARGV[2] then
  redis.call('LTRIM', KEYS[2], 0, 0)
  kept = {kept[1]}
end
local time = redis.call('TIME')
local answer = {string.format('%d', number), ''}
if #kept > 1 then
  for i = 2, #kept do answer[i + 1] = kept[i] end
else
  local due = redis.pcall('ZREVRANGEBYSCORE', KEYS[1], string.format('%d.%06d', time[1], time[2]), '-inf', 'LIMIT', 0, ARGV[1])
  if due['err'] then return due end
  if #due > 0 then
    local owner = redis.pcall('GET', KEYS[4])
    if type(owner) == 'table' then return owner end
    if owner and owner ~= ARGV[3] then return {'other', owner} end
    redis.call('DEL', KEYS[3])
    redis.pcall('SET', KEYS[4], ARGV[3], 'PX', ARGV[4])
    answer[1] = string.format('%d', math.max(number + 1, time[1] * 1000000 + time[2]))
    local held = redis.pcall('RPUSH', KEYS[2], answer[1], unpack(due))
    if type(held) == 'table' then return held end
    local removed = redis.pcall('ZREM', KEYS[1], unpack(due))
    if type(removed) == 'table' then -- they may not be taken out: they stay where they are, and only there
      redis.pcall('LTRIM', KEYS[2], 0, #kept - 1)
      return removed
    end
    if #kept > 0 then redis.call('LPOP', KEYS[2]) end -- the number before
    for i, payload in ipairs(due) do answer[i + 2] = payload end
  end
end
local first = redis.pcall('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if first then answer[2] = string.format('%.0f', tonumber(first) * 1000) end
return answer
