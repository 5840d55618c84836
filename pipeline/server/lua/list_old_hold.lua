-- list_old_hold: the second of three steps by which tasks come back to a list in another slot: has copies held.
--
-- KEYS  1 old workers' processing list  2 …:list:held:<list>, beside it: a number, then the tasks that were moved under it
--       3 S:never, beside it
-- ARGV  1 the task  2 most copies of it; 0: none, what is held already  3 copies that stay  4 how far into the processing
--       list to look, from its tail; 0: all of it
--       5 the number that was placed (list_place) by the step before, or '': it need not be held any more
-- Returns {number, new, payload…}: what is to be placed now; new: 1 if this call has moved it, 0 if it was held before,
--       and the task has to be asked for again. No payload: nothing.
--
-- As long as tasks are held no others are moved, so that any number of callers go on with the same. A number is above
-- all earlier ones, also when the key is lost, or the clock set back.

local kept = redis.pcall('LRANGE', KEYS[2], 0, -1)
if kept['err'] then return kept end
local number = tonumber(kept[1] or 0)
if #kept > 1 and kept[1] == ARGV[5] then
  redis.call('LTRIM', KEYS[2], 0, 0)
  kept = {kept[1]}
end
local answer = {string.format('%d', number), 0}
if #kept > 1 then
  for i = 2, #kept do answer[i + 1] = kept[i] end
  return answer
end
if ARGV[2] == '0' then return answer end
local stand = redis.pcall('LPOS', KEYS[1], ARGV[1], 'RANK', -1, 'COUNT', 0, 'MAXLEN', ARGV[4])
if stand['err'] then return stand end
local take = math.min(#stand - ARGV[3], tonumber(ARGV[2]))
if take <= 0 then return answer end

redis.call('DEL', KEYS[3])
local time = redis.call('TIME')
answer = {string.format('%d', math.max(number + 1, time[1] * 1000000 + time[2])), 1}
for i = 1, take do answer[i + 2] = ARGV[1] end
local held = redis.pcall('RPUSH', KEYS[2], answer[1], unpack(answer, 3))
if type(held) == 'table' then return held end
local removed = redis.pcall('LREM', KEYS[1], -take, ARGV[1])
if type(removed) == 'table' then -- they may not be taken out: they stay where they are, and only there
  redis.pcall('LTRIM', KEYS[2], 0, #kept - 1)
  return removed
end
if #kept > 0 then redis.call('LPOP', KEYS[2]) end -- the number before
return answer
