-- alone: notes that an entry is about to run with nothing beside it, if it is still the caller's. Only of who was noted,
-- and was delivered again since, is it known that its own run ended with the worker (pipeline/ladder.py).
--
-- KEYS  1 stream  2 S:groups  3 S:never
-- ARGV  1 group  2 what the fields of these notes begin with  3 consumer  4 entry id  5 how often it was delivered
-- Returns 1; 0 if the entry is not the caller's any more, or was handed back.
--
-- A note stays as long as its entry is pending, and goes with the next one made for the group. The field without an id
-- says that there may be some.

local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[4], ARGV[4], 1)
if held['err'] then return held end
if not held[1] or held[1][2] ~= ARGV[3] or held[1][4] < tonumber(ARGV[5]) then return 0 end
redis.call('DEL', KEYS[3])
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.sub(field, 1, #ARGV[2]) == ARGV[2] then
    local id = string.sub(field, #ARGV[2] + 1)
    if id ~= '' and #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 0 then
      redis.call('HDEL', KEYS[2], field)
    end
  end
end
redis.call('HSET', KEYS[2], ARGV[2] .. ARGV[4], ARGV[5], ARGV[2], 1)
return 1
