-- list_scores: how many members of a sorted set have each score, the lowest first.
--
-- KEYS  1 sorted set
-- ARGV  1 most scores, at most 100
-- Returns {score, members, …}.

local found, above = {}, '-inf'
for _ = 1, tonumber(ARGV[1]) do
  local first = redis.pcall('ZRANGEBYSCORE', KEYS[1], above, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if first['err'] then return first end
  if #first == 0 then break end
  found[#found + 1] = first[2]
  found[#found + 1] = redis.call('ZCOUNT', KEYS[1], first[2], first[2])
  above = '(' .. first[2]
end
return found
