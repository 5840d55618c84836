-- list_once: pushes tasks to a list, each at most once, as far as it is remembered by the id of its event.
--
-- KEYS  1 list  2… for each task, the key that remembers it (S:ids:<id> of the list)
-- ARGV  1 the end to push to, left or right  2 ms for which each is remembered  3… the payloads; at most 500
-- Returns how many were pushed; the others were pushed before.
--
-- A task and what remembers it are written one after the other: what is refused in between (out of memory) leaves
-- those behind it for the next try, and none half done.

local push = ARGV[1] == 'left' and 'LPUSH' or 'RPUSH'
local length = redis.pcall('LLEN', KEYS[1])
if type(length) == 'table' then return length end
local pushed = 0
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    local done = redis.pcall(push, KEYS[1], ARGV[i + 1])
    if type(done) == 'table' then return done end
    redis.call('SET', KEYS[i], '1', 'PX', ARGV[2])
    pushed = pushed + 1
  end
end
return pushed
