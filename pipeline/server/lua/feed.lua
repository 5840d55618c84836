-- feed: adds entries to a group's `again` stream, once, with the position up to which they were read.
--
-- KEYS  1 S:again:<group>  2 S:source:<replay>
-- ARGV  1 position the caller read from  2 position after these entries  3 how long the position is kept, ms
--       then for each entry: n field value …
-- Returns {1, position} if added, {0, stored position} if the caller's position is not the stored one (nothing added).

local stored = redis.call('GET', KEYS[2])
if stored and stored ~= ARGV[1] then return {0, stored} end
local at = 4
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  local added = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + n))
  if type(added) == 'table' then return added end
  at = at + 1 + n
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {1, ARGV[2]}
