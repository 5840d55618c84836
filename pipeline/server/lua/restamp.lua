-- restamp: has pending entries age from now on, after the server's clock was set back.
--
-- KEYS  1 stream
-- ARGV  1 group  2 start, as in XRANGE  3 most entries to look at, at most 500
-- Returns the id of the last entry looked at, '' where fewer than asked were left.
--
-- What was delivered at a time that is still to come counts as idle for 0 ms until the clock has caught up, and cannot
-- be claimed before. Such an entry, and one that was delivered just now, is renewed for its owner: no harm to either.

local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], '+', ARGV[3])
if rows['err'] then return rows end
for i = 1, #rows do
  if rows[i][3] == 0 then redis.call('XCLAIM', KEYS[1], ARGV[1], rows[i][2], 0, rows[i][1], 'JUSTID') end
end
return #rows == tonumber(ARGV[3]) and rows[#rows][1] or ''
