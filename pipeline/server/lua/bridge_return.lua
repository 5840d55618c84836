-- bridge_return: gives what a bridge holds, and has not delivered, back to the list's take end, in order.
--
-- KEYS  1 list  2 the bridge's own list  3 its counter  4 S:never
-- ARGV  1 the list's take end, left or right  2 the counter as the caller knows it  3 how many of the oldest tasks stay
--       4 most tasks of this call
-- Returns {returned or elsewhere, how many}: elsewhere if the counter is another one; then nothing was done.

local counter = redis.pcall('GET', KEYS[3])
if type(counter) == 'table' then return counter end
if counter ~= ARGV[2] then return {'elsewhere', 0} end
local held = redis.pcall('LLEN', KEYS[2])
if type(held) == 'table' then return held end
local there = redis.pcall('LLEN', KEYS[1])
if type(there) == 'table' then return there end
local most = math.min(held - tonumber(ARGV[3]), tonumber(ARGV[4]))
if most <= 0 then return {'returned', 0} end
redis.call('DEL', KEYS[4])
local push = ARGV[1] == 'right' and 'RPUSH' or 'LPUSH'
local tasks = redis.call('LRANGE', KEYS[2], -most, -1)
for i = most, 1, -1 do redis.call(push, KEYS[1], tasks[i]) end
redis.call('LTRIM', KEYS[2], 0, -most - 1)
return {'returned', most}
