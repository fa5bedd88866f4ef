-- Rules of every script.
--
-- A script is one atomic step of the store. Redis runs nothing in between, and writes its changes to
-- replicas and to the append-only file as one transaction. But a script that fails midway is not
-- rolled back. So every script reads first, then adds to the indexes (where an id without a session
-- does no harm), then appends to the log, then writes the row. Whatever can fail (a key of another
-- type, full memory) fails at the first write.
--
-- KEYS always begin with the meta key, so that a cluster finds the shard. Numbers travel as text:
-- Redis would truncate them to integers, and clients can be configured to map them.
--
-- `now` is set before these lines: milliseconds by the server's clock, constant within a script.

local function text(number) return string.format('%.0f', number) end

-- The reply of most scripts: the time, a flag, and the fields and values of a hash, if a key is given.
local function answer(flag, key)
  local reply = key and redis.call('HGETALL', key) or {}
  table.insert(reply, 1, text(now))
  table.insert(reply, 2, flag)
  return reply
end
