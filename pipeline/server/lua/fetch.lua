-- fetch: entries that are pending with the caller, who never saw them: a reply that was lost on the way.
--
-- KEYS  1 stream
-- ARGV  1 group  2 consumer  3… entry ids, at most 500
-- Returns {{id, fields, deliveries}…}: those that are the caller's and still in the stream.
--
-- XCLAIM takes from anyone, so the owner is looked at in the same step: another may have taken the entry over since the
-- caller listed it. The count of deliveries stays as it is, but for one that was handed back to 0: this is its first.

local found = {}
for i = 3, #ARGV do
  local held = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if held['err'] then return held end
  if held[1] and held[1][2] == ARGV[2] then
    local deliveries = math.max(held[1][4], 1)
    local entry = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', deliveries)[1]
    if entry and entry[2] then found[#found + 1] = {entry[1], entry[2], deliveries} end
  end
end
return found
