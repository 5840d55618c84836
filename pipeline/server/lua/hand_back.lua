-- hand_back: gives entries up, so that another member may run them; the attempt is not spent.
--
-- KEYS  1 stream  2 S:groups  3 S:never
-- ARGV  1 group  2 group, escaped  3 consumer  4 idle time they get, ms: beyond claim_after to be claimable at once,
--       0 to become claimable after claim_after (release)  5 random part of the claims token
--       6 what the fields of alone.lua's notes begin with  7… entry ids, at most 500
-- Returns how many were given up; those that are not the caller's any more are left alone.
--
-- A hand-back sets the sweep mark: whoever is on duty looks at once.

redis.call('DEL', KEYS[3])
local given = 0
for i = 7, #ARGV do
  local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if held['err'] then return held end
  if held[1] and held[1][2] == ARGV[3] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', ARGV[4],
      'RETRYCOUNT', math.max(held[1][4] - 1, 0), 'JUSTID')
    local noted = redis.call('HGET', KEYS[2], ARGV[6] .. ARGV[i])
    if noted and tonumber(noted) >= held[1][4] then -- a run that is given up has not ended with its worker
      redis.call('HDEL', KEYS[2], ARGV[6] .. ARGV[i])
    end
    given = given + 1
  end
end
if given > 0 then
  local now = redis.call('TIME')
  local mark = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)) .. '-' .. ARGV[5]
  redis.call('HSET', KEYS[2], ARGV[2] .. ':token', mark)
  if ARGV[4] ~= '0' then redis.call('HSET', KEYS[2], ARGV[2] .. ':sweep', mark) end
end
return given
