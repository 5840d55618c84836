-- retire: removes a consumer's name from a group, once it holds nothing.
--
-- KEYS  1 stream  2 S:again:<group>  3 S:members:<group>
-- ARGV  1 group  2 consumer
-- Returns 1 if it is gone, 0 if it still holds entries (XGROUP DELCONSUMER would drop them: it is not called).

for i = 1, 2 do
  local held = redis.pcall('XPENDING', KEYS[i], ARGV[1], '-', '+', 1, ARGV[2])
  if held['err'] and not string.find(held['err'], 'NOGROUP', 1, true) then return held end
  if held[1] then return 0 end
end
for i = 1, 2 do redis.pcall('XGROUP', 'DELCONSUMER', KEYS[i], ARGV[1], ARGV[2]) end
redis.call('HDEL', KEYS[3], ARGV[2])
return 1
