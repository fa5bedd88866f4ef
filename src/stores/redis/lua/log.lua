--- include: base
--- constant: keepChanges

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

-- KEYS meta, log; ARGV lineage, replication id and entry of the cursor (or three times ''), window, a
-- lineage to start with if there is none, how many entries at most. Returns the time, 'full' if there
-- may be more, lineage, replication id, the last entry, when changes were lost or '0', and four texts
-- for each entry: its session, the name and the value of its own field, and its time.
function changes()
  local meta = redis.call('HMGET', KEYS[1], 'lineage', 'replid', 'created', 'lostAt', 'ms', 'seq')
  local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  local lineage, created, lostAt = meta[1], tonumber(meta[3] or now), tonumber(meta[4] or 0)
  if not lineage then
    lineage = ARGV[5]
    redis.call('HSET', KEYS[1], 'lineage', lineage, 'replid', replid, 'created', text(now))
  elseif meta[2] ~= replid then
    lostAt = now
    redis.call('HSET', KEYS[1], 'replid', replid, 'lostAt', text(lostAt))
  end
  if ARGV[1] ~= '' and ARGV[1] ~= lineage and lostAt < created then
    lostAt = created
    redis.call('HSET', KEYS[1], 'lostAt', text(lostAt))
  end
  local continues = ARGV[1] == lineage and ARGV[2] == replid
  local from = continues and '(' .. ARGV[3] or text(math.max(0, now - tonumber(ARGV[4])))
  local found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[6])
  local full = #found == tonumber(ARGV[6])
  local last = full and found[#found][1] or (meta[5] or '0') .. '-' .. (meta[6] or '0')
  local reply = { text(now), full and 'full' or '', lineage, replid, last, text(lostAt) }
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
