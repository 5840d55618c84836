-- bridge_hold: takes tasks from a list's take end into a bridge's own list, until they are elsewhere.
--
-- KEYS  1 list  2 the bridge's own list, the oldest task first  3 its counter  4 S:never
-- ARGV  1 the list's take end, left or right  2 most tasks to take  3 most that may be held
--       4 the counter where there is none yet: <name>:0
-- Returns {counter, held before, payload…}: how many tasks were ever removed from what is held, as <name>:<number>; how
--       many were held before these, which are therefore numbers number + before + 1 and on.
--
-- The first write is an allowed one: under OOM the list is drained as ever.

local held = redis.pcall('LLEN', KEYS[2])
if type(held) == 'table' then return held end
local counter = redis.pcall('GET', KEYS[3])
if type(counter) == 'table' then return counter end
local there = redis.pcall('LLEN', KEYS[1])
if type(there) == 'table' then return there end
redis.call('DEL', KEYS[4])
if not counter then
  counter = ARGV[4]
  redis.call('SET', KEYS[3], counter)
end
local most = math.min(tonumber(ARGV[2]), tonumber(ARGV[3]) - held, there)
if most <= 0 then return {counter, held} end
local taken = redis.call(ARGV[1] == 'right' and 'RPOP' or 'LPOP', KEYS[1], most)
redis.call('RPUSH', KEYS[2], unpack(taken))
return {counter, held, unpack(taken)}
