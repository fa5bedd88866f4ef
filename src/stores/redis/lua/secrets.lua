--- include: log
--- constant: maxSecrets

-- Secrets and retired keys. KEYS begin with meta and log. "secrets" is a hash by id; a value is when
-- the secret was seen, since when it is dead (or ''), and its issuer, separated by colons.

local function parse(value)
  local seen, dead, issuer = string.match(value, '^(%d+):(%d*):(.*)$')
  return seen, dead, issuer
end

-- Appends an entry that concerns no session: its session is the change.
local function announce(change) append(change, 'keys', change) end

-- Drops what is more than the limit: those that are alive and were not seen for longest come first.
local function cut(key)
  local surplus = redis.call('HLEN', key) - maxSecrets
  if surplus <= 0 then return end
  local all, fields = {}, redis.call('HGETALL', key)
  for each = 1, #fields, 2 do
    local seen, dead = parse(fields[each + 1])
    table.insert(all, { id = fields[each], alive = dead == '', at = tonumber(dead ~= '' and dead or seen) })
  end
  table.sort(all, function(a, b)
    if a.alive ~= b.alive then return a.alive end
    if a.at ~= b.at then return a.at < b.at end
    return a.id > b.id
  end)
  for each = 1, surplus do redis.call('HDEL', key, all[each].id) end
end

-- KEYS meta, log, secrets; ARGV ids and issuers.
function recordSecrets()
  for each = 1, #ARGV, 2 do
    local known = redis.call('HGET', KEYS[3], ARGV[each])
    local dead, issuer = '', ARGV[each + 1]
    if known then
      local _, since, named = parse(known)
      dead, issuer = since, named
    end
    redis.call('HSET', KEYS[3], ARGV[each], text(now) .. ':' .. dead .. ':' .. issuer)
  end
  cut(KEYS[3])
  return answer('', KEYS[3])
end

-- KEYS meta, log, secrets; ARGV ids and issuers.
function retireSecrets()
  announce('changed')
  for each = 1, #ARGV, 2 do
    local known = redis.call('HGET', KEYS[3], ARGV[each])
    local seen, dead, issuer = text(now), '', ARGV[each + 1]
    if known then seen, dead, issuer = parse(known) end
    if dead == '' then dead = text(now) end
    redis.call('HSET', KEYS[3], ARGV[each], seen .. ':' .. dead .. ':' .. issuer)
  end
  cut(KEYS[3])
  return answer('', KEYS[3])
end

-- KEYS meta, log, keys; ARGV kids. Returns the kids that it removed.
function retireSigningKeys()
  local wanted, gone, reply = {}, {}, answer('')
  for _, kid in ipairs(ARGV) do wanted[kid] = true end
  local fields = redis.call('HGETALL', KEYS[3])
  for each = 1, #fields, 2 do
    local kid = cjson.decode(string.match(fields[each + 1], '^%d+:(.*)$')).kid
    if wanted[kid] then
      table.insert(gone, fields[each])
      table.insert(reply, kid)
    end
  end
  if #gone > 0 then
    announce('changed')
    redis.call('HDEL', KEYS[3], unpack(gone))
  end
  return reply
end

-- KEYS meta, log; ARGV the change.
function announceKeys()
  announce(ARGV[1])
  return answer('')
end
