-- Which photo a request under an idempotency key repeats.
--
-- ARGV: digest of the key, fingerprint. Returns 'joined', 'conflict' or 'failed' and the job; nothing where there is none.

local job, kind = known_by(ARGV[1], ARGV[2])
return job and {kind, job} or {}
