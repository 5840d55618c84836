-- count: how many entries lie in a range, without sending them.
--
-- KEYS  1 stream
-- ARGV  1 from (as in XRANGE: an id, '-' or '(id')  2 to  3 most entries to look at, at most 500
-- Returns {entries, id of the last one, or '' where there is none}.

local entries = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])
return {#entries, #entries > 0 and entries[#entries][1] or ''}
