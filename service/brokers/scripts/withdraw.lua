-- Forget a job.
--
-- ARGV: job. Returns the number of items that waited, and the view.

go_on()
return {forget(ARGV[1]), view()}
