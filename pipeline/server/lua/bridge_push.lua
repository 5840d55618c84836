-- bridge_push: pushes tasks to a list once, together with the position in the stream that they are from.
--
-- KEYS  1 list  2 the position
-- ARGV  1 the end to push to, left or right  2 the position as the caller knows it, '' where there is none
--       3 the position after these tasks  4… their payloads, in order; at most 500
-- Returns {pushed or elsewhere, position}: elsewhere if the position is another one; then nothing was done.
--
-- The first write is one that the server refuses when out of memory, so the tasks are refused as a whole.

local position = redis.pcall('GET', KEYS[2])
if type(position) == 'table' then return position end
if (position or '') ~= ARGV[2] then return {'elsewhere', position or ''} end
if #ARGV > 3 then
  local pushed = redis.pcall(ARGV[1] == 'left' and 'LPUSH' or 'RPUSH', KEYS[1], unpack(ARGV, 4))
  if type(pushed) == 'table' then return pushed end
end
local set = redis.pcall('SET', KEYS[2], ARGV[3])
if set['err'] then return set end
return {'pushed', ARGV[3]}
