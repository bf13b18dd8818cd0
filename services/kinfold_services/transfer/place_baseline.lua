-- Puts a file's baseline in place, with the log's count of entries as if they had been there, in one atomic step.
--
-- KEYS  staged pieces, baseline-pieces, baseline, events
-- ARGV  [1] the position of the baseline   [2] its `about`   [3] how many entries were ever appended up to it

redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PERSIST', KEYS[2])
redis.call('HSET', KEYS[3], 'position', ARGV[1], 'about', ARGV[2])
redis.call('XSETID', KEYS[4], ARGV[1], 'ENTRIESADDED', ARGV[3], 'MAXDELETEDID', '0-0')
return 'done'
