-- glance: the ids of entries in a range, each with the first bytes of its header, without sending the entries.
--
-- KEYS  1 stream
-- ARGV  1 from (as in XRANGE: an id, '-' or '(id')  2 to  3 most entries to look at, at most 500
-- Returns {id, first 12 bytes of the field `h`, or '' where it is not the first field, …}.

local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  found[#found + 1] = entry[1]
  found[#found + 1] = entry[2][1] == 'h' and string.sub(entry[2][2], 1, 12) or ''
end
return found
