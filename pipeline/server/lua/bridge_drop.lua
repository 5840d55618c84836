-- bridge_drop: removes from what a bridge holds the tasks that are elsewhere by now, and counts them.
--
-- KEYS  1 the bridge's own list  2 its counter  3 S:never
-- ARGV  1 the counter as the caller knows it  2 the counter after this  3 how many to remove, from the oldest on
-- Returns {dropped or elsewhere, counter}: elsewhere if the counter is another one ('' where there is none); then
--       nothing was done.

local counter = redis.pcall('GET', KEYS[2])
if type(counter) == 'table' then return counter end
if counter ~= ARGV[1] then return {'elsewhere', counter or ''} end
local held = redis.pcall('LLEN', KEYS[1])
if type(held) == 'table' then return held end
redis.call('DEL', KEYS[3])
if ARGV[3] ~= '0' then redis.call('LTRIM', KEYS[1], ARGV[3], -1) end
redis.call('SET', KEYS[2], ARGV[2])
return {'dropped', ARGV[2]}
