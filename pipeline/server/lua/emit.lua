-- emit: appends an event that a handler emitted, once by its id, before the entry it came of is settled: where one
-- script cannot do both.
--
-- KEYS  1 stream  2 S:ids:<id> of that stream
-- ARGV  1 ms until S:ids expires  2… field value …
-- Returns the entry id: of this append, or of the one before.

local known = redis.pcall('GET', KEYS[2])
if type(known) == 'table' then return known end
if known then return known end
local id = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, 2))
if type(id) == 'table' then return id end
redis.call('SET', KEYS[2], id, 'PX', ARGV[1])
return id
