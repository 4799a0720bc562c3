-- Set a key for a while. It begins with a write that a full memory does not refuse, and so the other is not.
--
-- KEYS: which.
-- ARGV: its value, its time to live in ms.

redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
