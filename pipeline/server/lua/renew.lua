-- renew: keeps entries that are still the caller's from going idle.
--
-- KEYS  1 stream  2 S:groups
-- ARGV  1 group  2 group, escaped  3 consumer  4 claims token known before these entries were read  5… ids, at most 500
-- Returns {token, lost…}: the token now, which the caller may adopt for the ids it asked about, and the ids that are
--       not the caller's any more (taken over, settled by replay, or trimmed).

local token = redis.call('HGET', KEYS[2], ARGV[2] .. ':token') or ''
local ids, lost = {}, {}
for i = 5, #ARGV do
  if token ~= '' and token == ARGV[4] then
    ids[#ids + 1] = ARGV[i]
  else
    local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
    if held['err'] then return held end
    if held[1] and held[1][2] == ARGV[3] then ids[#ids + 1] = ARGV[i] else lost[#lost + 1] = ARGV[i] end
  end
end
if #ids > 0 then
  local command = {'XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0}
  for _, id in ipairs(ids) do command[#command + 1] = id end
  command[#command + 1] = 'JUSTID' -- renewing is not a delivery
  local renewed = redis.pcall(unpack(command))
  if renewed['err'] then return renewed end
  if #renewed < #ids then
    local still = {}
    for _, id in ipairs(renewed) do still[id] = true end
    for _, id in ipairs(ids) do
      if not still[id] then lost[#lost + 1] = id end
    end
  end
end
return {token, unpack(lost)}
