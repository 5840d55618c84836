-- feed: adds entries to a group's `again` stream, once, together with the record of how far their replay has come.
--
-- KEYS  1 S:again:<group>  2 S:source:<replay>  3 S:groups
-- ARGV  1 group, escaped  2 the record as the caller knows it, '' to begin  3 the record after these entries
--       4 how long it is kept, ms
--       then for each entry: n field value …
-- Returns {status, record, entries in `again`}:
--       added      the entries are in `again`, the record is ARGV 3
--       elsewhere  the record is another one ('' where there is none): nothing was added
--       gone       the group was removed, or the server has lost its data: nothing was added
--
-- Entries first, record last: under OOM the first XADD is refused and nothing has changed; without entries the SET is.

local stored = redis.pcall('GET', KEYS[2])
if type(stored) == 'table' and stored['err'] then return stored end
stored = stored or ''
local waiting = redis.pcall('XLEN', KEYS[1])
if type(waiting) == 'table' then return waiting end
if redis.call('HEXISTS', KEYS[3], ARGV[1] .. ':since') == 0 then return {'gone', stored, waiting} end
if stored ~= ARGV[2] then return {'elsewhere', stored, waiting} end
local at = 5
while at <= #ARGV do
  local n = tonumber(ARGV[at])
  local added = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + n))
  if type(added) == 'table' then return added end
  waiting = waiting + 1
  at = at + 1 + n
end
local kept = redis.pcall('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
if kept['err'] then return kept end
return {'added', ARGV[3], waiting}
