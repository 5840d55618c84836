-- list_pop: takes tasks off a list for a caller who is told them by the answer, and keeps them until he says he has them.
--
-- KEYS  1 list (or sorted set)  2 hand  3 popped
-- ARGV  1 where the next task stands: left, right, or lowest (of a sorted set)  2 the caller's token
--       3 most tasks, at most 100  4 the members of the sorted set are: unique (<16 hex>:<payload>) or classic
-- Returns the payloads, in order.
--
-- Called again with a token that is still kept, it answers what that was given, and takes nothing: so a lost answer loses
-- nothing. list_popped removes the token; list_return gives back what a caller who died never removed.
-- Its first write is a pop, so it runs under OOM too.

local kept = redis.pcall('HGET', KEYS[3], ARGV[2])
if type(kept) == 'table' then return kept end
local strip = ARGV[1] == 'lowest' and ARGV[4] == 'unique'
local function payload(member) -- a member that somebody else wrote has no id
  if strip and string.find(member, '^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x:') then return string.sub(member, 18) end
  return member
end

local members, scores = {}, {}
local handed
if kept then
  local record = cmsgpack.unpack(kept)
  members, scores, strip = record[2], record[3], record[4]
else
  local most = tonumber(ARGV[3])
  handed = redis.pcall('RPOP', KEYS[2], most)
  if handed and handed['err'] then return handed end
  for _, one in ipairs(handed or {}) do
    members[#members + 1], scores[#scores + 1] = one, '' -- '': it had its id taken off, or never had a score
  end
  local rest = most - #members
  if rest > 0 then
    local taken
    if ARGV[1] == 'lowest' then
      taken = redis.pcall('ZPOPMIN', KEYS[1], rest)
    else
      taken = redis.pcall(ARGV[1] == 'left' and 'LPOP' or 'RPOP', KEYS[1], rest)
    end
    if taken and taken['err'] then
      if #members == 0 then return taken end
      taken = {} -- what was handed is answered; the next call says what is wrong
    end
    local step = ARGV[1] == 'lowest' and 2 or 1
    for i = 1, #(taken or {}), step do
      members[#members + 1], scores[#scores + 1] = taken[i], step == 2 and taken[i + 1] or ''
    end
  end
  if #members == 0 then return {} end
  local now = redis.call('TIME')
  local now_ms = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
  local noted = redis.pcall('HSET', KEYS[3], ARGV[2], cmsgpack.pack({now_ms, members, scores, strip}))
  if type(noted) == 'table' then -- a right may be missing: all stays where it was
    for i = #members, 1, -1 do
      if handed and i <= #handed then
        redis.pcall('RPUSH', KEYS[2], members[i])
      elseif scores[i] ~= '' then
        redis.pcall('ZADD', KEYS[1], scores[i], members[i])
      else
        redis.pcall(ARGV[1] == 'left' and 'LPUSH' or 'RPUSH', KEYS[1], members[i])
      end
    end
    return noted
  end
end
local payloads = {}
for i, member in ipairs(members) do
  payloads[i] = scores[i] == '' and member or payload(member)
end
return payloads
