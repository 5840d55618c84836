-- remove_group: removes a group with all that is kept for it, dead letters only if asked; not while members live.
--
-- KEYS  1 stream  2 S:groups  3 S:again:<group>  4 S:retry:<group>  5 S:retry-bodies:<group>  6 S:dead:<group>
--       7 S:members:<group>  8 S:duty:<group>
-- ARGV  1 group  2 group, escaped  3 1 to remove its dead letters too
-- Returns {removed, live members}: removed is 1, or 0 if members live (nothing was removed) or there was no such group.

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local live = 0
for _, record in ipairs(redis.call('HVALS', KEYS[7])) do
  local claim_after, seen = string.match(record, '^(%d+):(%d+)$')
  if claim_after and now_ms - tonumber(seen) <= tonumber(claim_after) then live = live + 1 end
end
if live > 0 then return {0, live} end

local gone = redis.pcall('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
if type(gone) == 'table' then
  -- the stream itself is gone: what is kept beside it may go all the same
  if not string.find(gone['err'], 'requires the key to exist', 1, true) then return gone end
  gone = 0
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.sub(field, 1, #ARGV[2] + 1) == ARGV[2] .. ':' then
    redis.call('HDEL', KEYS[2], field)
    gone = 1
  end
end
redis.call('UNLINK', KEYS[3], KEYS[4], KEYS[5], KEYS[7], KEYS[8])
if ARGV[3] == '1' then redis.call('UNLINK', KEYS[6]) end
return {gone, 0}
