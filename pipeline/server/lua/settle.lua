-- settle: acknowledges entries, if they are still the caller's.
--
-- KEYS  1 stream  2 S:groups
-- ARGV  1 group  2 group, escaped  3 consumer  4 1 if settled entries are also deleted (`again`)
--       5 claims token known before these entries were read  6 '', or the group's filter by which events of these
--       entries were passed over: it must still stand  7… entry ids, at most 500
-- Returns {settled, token, group, taken over…}: how many were settled, the token now, 0 if the group is gone,
--       and the ids that are not the caller's any more; or {0, token, 2, filter} if the filter is another now: then
--       nothing was done, as a type that was passed over may be one that the group takes.
--
-- While the token stands, nothing has changed owner since the entries were read and XACK alone is right. XACK checks
-- no owner and answers 0, not an error, when the group is gone: fewer than asked is looked into.

local token = redis.call('HGET', KEYS[2], ARGV[2] .. ':token') or ''
if ARGV[6] ~= '' then
  local filter = redis.call('HGET', KEYS[2], ARGV[2] .. ':filter') or ''
  if filter ~= ARGV[6] then return {0, token, 2, filter} end
end
local ids, lost = nil, {}
if token ~= '' and token == ARGV[5] then
  ids = {unpack(ARGV, 7)}
else
  ids = {}
  for i = 7, #ARGV do
    local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
    if held['err'] then
      if string.find(held['err'], 'NOGROUP', 1, true) then return {0, token, 0} end
      return held
    end
    if held[1] and held[1][2] == ARGV[3] then ids[#ids + 1] = ARGV[i] else lost[#lost + 1] = ARGV[i] end
  end
end

local settled = 0
if #ids > 0 then
  settled = redis.pcall('XACK', KEYS[1], ARGV[1], unpack(ids))
  if type(settled) == 'table' then return settled end
  if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], unpack(ids)) end
end
local there = 1
if settled < #ids then
  local group = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1)
  if group['err'] then
    if not string.find(group['err'], 'NOGROUP', 1, true) then return group end
    there = 0
  end
end
return {settled, token, there, unpack(lost)}
