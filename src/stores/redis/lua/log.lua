--- include: base
--- constant: keepChanges

-- Milliseconds between two notes of when the data was last seen where it is.
local seenEvery = 60000
-- Milliseconds by which the clocks of two servers of a cluster may differ.
local clockMargin = 5000

-- Appends an entry about a session to the log, with one more field, and notifies subscribers. If the
-- store's user may not publish, servers poll instead.
--
-- Ids of the log never go back, even if the clock does: a reader that has seen one receives every
-- later entry.
local function append(id, name, value)
  local last = redis.call('HMGET', KEYS[1], 'ms', 'seq')
  local ms, seq = tonumber(last[1] or 0), tonumber(last[2] or 0)
  if now > ms then ms, seq = now, 0 else seq = seq + 1 end
  redis.call('XADD', KEYS[2],
    text(ms) .. '-' .. text(seq), 'session', id, name, value, 'at', text(now))
  redis.call('HSET', KEYS[1], 'ms', text(ms), 'seq', text(seq))
  redis.pcall('PUBLISH', KEYS[2], '')
end

-- KEYS meta; ARGV channel. Publishes an empty message.
function publish()
  redis.call('PUBLISH', ARGV[1], '')
  return answer('')
end

-- Whether a server of a cluster with another replication id has the data because a slot moved to it.
-- Then it has run for longer than the data has been elsewhere. A server that was restarted has not; one
-- that was promoted has a second replication id. In doubt, changes may be lost.
local function hasMoved(replication, seenAt)
  local function number(section, name)
    return tonumber(string.match(redis.call('INFO', section), name .. ':(%d+)') or 0)
  end
  return number('cluster', 'cluster_enabled') == 1
    and string.match(replication, 'master_replid2:0+%c') ~= nil
    and now - (number('server', 'uptime_in_seconds') - 1) * 1000 < seenAt - clockMargin
end

-- Notes the history of the data, and returns its name and when changes were lost, or 0. A new one begins
-- when they may have been: the data is on another server, or the cursor is of other data. `meta` has the
-- fields of the history, `lineage` is that of the cursor or ''.
local function followHistory(meta, lineage, fresh)
  local replication = redis.call('INFO', 'replication')
  local replid = string.match(replication, 'master_replid:(%w+)')
  local created, lostAt, seenAt = tonumber(meta.created or now), tonumber(meta.lostAt or 0), tonumber(meta.seenAt or 0)
  local moved = meta.replid and meta.replid ~= replid
  local lost = moved and not hasMoved(replication, seenAt) and now
    or lineage ~= '' and lineage ~= meta.lineage and lostAt < created and created
  if lost then
    lostAt = lost
    redis.call('HSET', KEYS[1], 'lostAt', text(lostAt), 'history', fresh)
  elseif not meta.history then
    redis.call('HSET', KEYS[1], 'history', fresh)
  end
  -- Written rarely, because every server reads the log several times a second.
  if moved or not meta.replid or now - seenAt >= seenEvery then
    redis.call('HSET', KEYS[1], 'replid', replid, 'seenAt', text(now))
  end
  return lost and fresh or meta.history or fresh, lostAt, replid
end

-- KEYS meta, log; ARGV lineage, replication id and entry of the cursor (or three times ''), window, a
-- lineage to start with if there is none, how many entries at most, a name for a new history. Returns
-- the time, 'full' if there may be more, lineage, replication id, the last entry, when changes were lost
-- or '0', the history, and four texts for each entry: its session, the name and the value of its own
-- field, and its time.
function changes()
  local names = { 'lineage', 'replid', 'created', 'lostAt', 'ms', 'seq', 'history', 'seenAt' }
  local values, meta = redis.call('HMGET', KEYS[1], unpack(names)), {}
  for i, name in ipairs(names) do meta[name] = values[i] or nil end
  if not meta.lineage then
    meta.lineage = ARGV[5]
    redis.call('HSET', KEYS[1], 'lineage', meta.lineage, 'created', text(now))
  end
  local lineage = meta.lineage
  local history, lostAt, replid = followHistory(meta, ARGV[1], ARGV[7])
  local continues = ARGV[1] == lineage and ARGV[2] == replid
  local from = continues and '(' .. ARGV[3] or text(math.max(0, now - tonumber(ARGV[4])))
  local found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[6])
  local full = #found == tonumber(ARGV[6])
  local last = full and found[#found][1] or (meta.ms or '0') .. '-' .. (meta.seq or '0')
  local reply = { text(now), full and 'full' or '', lineage, replid, last, text(lostAt), history }
  for _, entry in ipairs(found) do
    for _, field in ipairs({ 2, 3, 4, 6 }) do table.insert(reply, entry[2][field]) end
  end
  return reply
end

-- KEYS meta, log; ARGV limit. Returns how many entries it removed. Sessions expire on their own.
function pruneLog()
  local last = math.max(0, now - keepChanges - 1)
  local old = redis.call('XRANGE', KEYS[2], '-', text(last), 'COUNT', text(ARGV[1] + 1))
  local kept = old[ARGV[1] + 1]
  return answer(text(redis.call('XTRIM', KEYS[2], 'MINID', '=', kept and kept[1] or text(last + 1))))
end
