// Each script is one atomic step of the store: Redis runs nothing beside it, and writes what it
// changed to replicas and to the append-only file as one transaction. It is not undone when it
// fails midway, so every script reads, then adds to the indexes, where an id without a session does
// no harm, then appends to the log, then writes the row: whatever can fail (a key of another type,
// memory that is full) fails at its first write.
//
// KEYS always begin with the meta key, so that a cluster finds the shard. Numbers travel as text:
// Redis would cut them to integers, and clients map them as they are told.

/** Sets `now`: the server's clock in milliseconds, which stands still within a script. */
export const serverTime = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

/** Helpers of every script. */
export const base = `
local function text(number) return string.format('%.0f', number) end

local function answer(flag, key)
  local reply = key and redis.call('HGETALL', key) or {}
  table.insert(reply, 1, text(now))
  table.insert(reply, 2, flag)
  return reply
end
`;
