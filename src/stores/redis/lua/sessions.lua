--- include: rows

-- KEYS begin with meta, log, ends, revoking. The keys of the ids in ARGV follow, because a cluster
-- requires them to be declared; the scripts make them from the ids.

-- The history of the data, '' if it has no name yet; see log.lua.
local function history() return redis.call('HGET', KEYS[1], 'history') or '' end

-- The reply of scripts about one session: the time, a flag, the history, and the row if a key is given.
local function stored(flag, key)
  local reply = answer(flag, key)
  table.insert(reply, 3, history())
  return reply
end

-- The ids of a user's live sessions in a tenant, or in none, newest first. Reads the smaller index,
-- because a user id such as 'admin' may exist in thousands of tenants.
local function liveWithin(userId, tenantId)
  local owned = userKey(userId)
  if tenantId and redis.call('ZCARD', tenantKey(tenantId)) < redis.call('ZCARD', owned) then
    owned = tenantKey(tenantId)
  end
  local ids = {}
  for _, id in ipairs(redis.call('ZREVRANGE', owned, '0', '-1')) do
    endIfPending(id)
    -- One command for all, because a user may have very many sessions.
    local row = redis.call('HMGET', sessionKey(id),
      'userId', 'tenantId', 'revokedAt', 'idleExpiresAt', 'expiresAt')
    if row[1] == userId and (row[2] or nil) == tenantId and isLiveRow(row[3], row[4], row[5]) then
      table.insert(ids, id)
    end
  end
  return ids
end

-- ARGV id, user, tenant?, replaced?, required?, idle, absolute, ends by or '', auth time or '', created
-- at or '', most sessions of the user in the tenant or '', 'evict' or 'reject', external issuer?, sid?,
-- sub?, fields and values. Flag 'taken', 'notLive' or
-- 'limit' when it is refused, else 'replaced' or ''; then the number of the revokeAll that evicts if
-- there are too many for one step, or '', how many were evicted, the history, the evicted ids, and the new row.
function insert()
  local id, userId, tenantId, replaces = ARGV[1], ARGV[2], optional(ARGV[3]), optional(ARGV[4])
  local key, requires, most = sessionKey(id), optional(ARGV[5]), tonumber(ARGV[11])
  if redis.call('EXISTS', key) == 1 then return answer('taken') end
  if requires and not isLive(requires) then return answer('notLive') end
  local counted = most and liveWithin(userId, tenantId) or {}
  local origin
  for _, other in ipairs(counted) do
    if other == requires and other ~= replaces then origin = other end
  end
  if origin and most < 2 then return answer('limit') end
  local evicted, kept = {}, origin and 1 or 0
  for _, other in ipairs(counted) do
    if other ~= replaces and other ~= origin then
      if kept + 1 < most then
        kept = kept + 1
      elseif ARGV[12] ~= 'evict' then
        return answer('limit')
      else
        table.insert(evicted, other)
      end
    end
  end
  local time, expiresAt = text(now), now + tonumber(ARGV[7])
  if ARGV[8] ~= '' then expiresAt = math.min(expiresAt, tonumber(ARGV[8])) end
  local idleEnd = math.min(now + tonumber(ARGV[6]), expiresAt)
  local createdAt = ARGV[10] ~= '' and ARGV[10] or time
  for _, external in ipairs(externalKeys(optional(ARGV[13]), optional(ARGV[14]), optional(ARGV[15]))) do
    cleanExternal(external)
    indexExternal(external, id, createdAt, idleEnd)
  end
  index(id, { userId = userId, tenantId = tenantId, createdAt = createdAt, idleEnd = idleEnd })
  if replaces then endIfPending(replaces) end
  local replaced = replaces and endSession(replaces, 'replaced')
  local number = ''
  if #evicted > endAtOnce then
    number, evicted = setApart(evicted, 'evicted', userId, tenantId), {}
  end
  local reply = { time, replaced and 'replaced' or '', number, text(#evicted), history() }
  for oldest = #evicted, 1, -1 do
    endSession(evicted[oldest], 'evicted')
    table.insert(reply, evicted[oldest])
  end
  redis.call('HSET', key, 'generation', '0', 'claimsVersion', '0', 'version', '0',
    'rotatedAt', time, 'sentAt', time, 'createdAt', createdAt, 'authTime', ARGV[9] ~= '' and ARGV[9] or time,
    'lastSeenAt', time, 'idleExpiresAt', text(idleEnd), 'expiresAt', text(expiresAt),
    unpack(ARGV, 16))
  redis.call('PEXPIREAT', key, text(idleEnd + keepEnded))
  for _, field in ipairs(redis.call('HGETALL', key)) do table.insert(reply, field) end
  return reply
end

-- ARGV id.
function load()
  endIfPending(ARGV[1])
  return stored('', sessionKey(ARGV[1]))
end

-- The time since which a generation settles. Rows of older versions have no sentAt, or a former one.
local function sentAt(rotated, sent)
  return math.max(tonumber(rotated), tonumber(sent or 0))
end

-- Writes the ends of a session that is refreshed. `row` has expiresAt, createdAt and the three fields of
-- the external id. Writes the given fields and values with them, in one command. Returns the idle end.
local function prolong(key, id, idle, row, ...)
  local idleEnd = math.min(now + idle, tonumber(row[1]))
  for _, external in ipairs(externalKeys(row[3], row[4], row[5])) do
    indexExternal(external, id, row[2], idleEnd)
  end
  redis.call('HSET', key, 'lastSeenAt', text(now), 'idleExpiresAt', text(idleEnd), ...)
  redis.call('PEXPIREAT', key, text(idleEnd + keepEnded))
  return text(idleEnd)
end

-- The JSON of a device. It may be stored in parts.
local function deviceOf(row)
  if not row.device0 then return row.device end
  local parts = {}
  while row['device' .. #parts] do parts[#parts + 1] = row['device' .. #parts] end
  return table.concat(parts)
end

-- ARGV id, generation, secret id, root hash, transport, overlap, idle, next secret id, bound key or
-- ''. If the condition holds: flag 'advanced' and the values of the new row that the caller does not know,
-- '' for a missing one. Otherwise: flag '' and all fields and values of the row.
function advance()
  local key = sessionKey(ARGV[1])
  endIfPending(ARGV[1])
  -- One command for all fields: Redis looks for each named field from the beginning.
  local fields, row = redis.call('HGETALL', key), {}
  for each = 1, #fields, 2 do row[fields[each]] = fields[each + 1] end
  if tonumber(row.generation or -1) ~= tonumber(ARGV[2]) or row.secretId ~= ARGV[3]
    or row.rootHash ~= ARGV[4] or row.transport ~= ARGV[5] or (row.boundKey or '') ~= ARGV[9]
    or not row.confirmedAt or now - tonumber(row.confirmedAt) <= tonumber(ARGV[6])
    or not isLiveRow(row.revokedAt, row.idleExpiresAt, row.expiresAt) then
    return { text(now), '', history(), unpack(fields) }
  end
  local idleEnd = prolong(key, ARGV[1], math.min(tonumber(ARGV[7]), tonumber(row.idleLife or ARGV[7])), {
    row.expiresAt, row.createdAt, row.externalIssuer, row.externalSid, row.externalSub
  }, 'generation', text(row.generation + 1), 'secretId', ARGV[8], 'formerSecretId', row.secretId,
    'rotatedAt', text(now), 'sentAt', text(now))
  redis.call('HDEL', key, 'confirmedAt', 'prolonged', 'salt')
  -- In the order that `toAdvanced` in rows.ts reads.
  return {
    text(now), 'advanced', history(),
    row.userId or '', row.tenantId or '', row.lastSalted or '', row.createdAt or '',
    row.authTime or '', idleEnd, row.expiresAt,
    row.accessLife or '', row.idleLife or '', row.lineage or '', row.externalIssuer or '',
    row.externalSid or '', row.externalSub or '', row.authentication or '',
    row.claims or '', row.claimsVersion or '', row.data or '', row.version or '',
    deviceOf(row) or ''
  }
end

-- Writes a field, or removes it if the value is ''.
local function put(key, field, value)
  if value == '' then redis.call('HDEL', key, field) else redis.call('HSET', key, field, value) end
end

-- ARGV id, kind, generation, idle, settle or '', generation to write, secret id, prolonged or '', new
-- bound key or ''; and, if they change, salt, root hash and hash of the last salted token, each or ''. Returns no row when the
-- condition of the write does not hold.
function refresh()
  local key = sessionKey(ARGV[1])
  endIfPending(ARGV[1])
  local row = redis.call('HMGET', key,
    'generation', 'revokedAt', 'idleExpiresAt', 'expiresAt', 'rotatedAt', 'confirmedAt', 'sentAt',
    'createdAt', 'externalIssuer', 'externalSid', 'externalSub', 'secretId')
  if not row[1] or tonumber(row[1]) ~= tonumber(ARGV[3]) or row[2]
    or tonumber(row[3]) <= now or tonumber(row[4]) <= now then
    return stored('')
  end
  prolong(key, ARGV[1], tonumber(ARGV[4]), { row[4], row[8], row[9], row[10], row[11] })
  if ARGV[9] ~= '' then redis.call('HSET', key, 'boundKey', ARGV[9]) end
  if ARGV[2] == 'keep' then
    local age = math.max(0, now - sentAt(row[5], row[7]))
    if ARGV[5] ~= '' and not row[6] and age >= tonumber(ARGV[5]) then
      redis.call('HSET', key, 'confirmedAt', text(now))
    end
  elseif ARGV[2] == 'resend' then
    if ARGV[8] ~= '' then redis.call('HSET', key, 'sentAt', text(now), 'prolonged', ARGV[8]) end
  else
    redis.call('HSET', key, 'generation', ARGV[6], 'secretId', ARGV[7],
      'rotatedAt', text(now), 'sentAt', text(now))
    redis.call('HDEL', key, 'confirmedAt', 'prolonged')
    put(key, 'formerSecretId', ARGV[2] == 'advance' and row[12] or '')
    if ARGV[10] then
      put(key, 'salt', ARGV[10])
      put(key, 'rootHash', ARGV[11])
      put(key, 'lastSalted', ARGV[12])
    end
  end
  return stored('', key)
end

-- Confirms a generation. Returns whether it is confirmed, or never can be.
local function confirmOne(id, used, settle)
  local key = sessionKey(id)
  endIfPending(id)
  local row = redis.call('HMGET', key, 'generation', 'revokedAt', 'rotatedAt', 'confirmedAt',
    'sentAt')
  if not row[1] or row[2] or tonumber(row[1]) > used then return true end
  -- The store lost a generation ahead of the row; it may become current again.
  if tonumber(row[1]) < used then return false end
  if row[4] then return true end
  if math.max(0, now - sentAt(row[3], row[5])) < settle then return false end
  redis.call('HSET', key, 'confirmedAt', text(now))
  return true
end

-- ARGV id, generation and settle of each use. Returns '1' or '' for each, by confirmOne.
function confirm()
  local reply = { text(now) }
  for i = 1, #ARGV, 3 do
    local done = confirmOne(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))
    table.insert(reply, done and '1' or '')
  end
  return reply
end

-- ARGV id, ended by. Flag 'revoked' when this call ended the session.
function revoke()
  endIfPending(ARGV[1])
  local ended = endSession(ARGV[1], ARGV[2])
  return stored(ended and 'revoked' or '', sessionKey(ARGV[1]))
end

-- ARGV id, version, increment of the version, 'claims' if they are new, fields and values. Returns no
-- row when the condition of the update does not hold.
function update()
  local id, key = ARGV[1], sessionKey(ARGV[1])
  local row = redis.call('HMGET', key, 'version', 'claimsVersion')
  if not isLive(id) or tonumber(row[1]) ~= tonumber(ARGV[2]) then return stored('') end
  if ARGV[4] == 'claims' then
    local claimsVersion = text(row[2] + 1)
    append(id, 'claimsVersion', claimsVersion)
    redis.call('HSET', key, 'claimsVersion', claimsVersion)
  end
  redis.call('HSET', key, 'version', text(row[1] + ARGV[3]), unpack(ARGV, 5))
  return stored('', key)
end
