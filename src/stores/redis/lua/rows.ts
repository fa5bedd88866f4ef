import { keepEnded } from "../../common.ts";
import { append } from "./log.ts";

// The indexes are sorted sets: one per user and one per tenant, of session ids by createdAt; and
// "ends", which tells when to look whether a session has left Redis, so that its id leaves the
// indexes. It stays in them for as long as its row is kept, unless it was revoked: a clock that goes
// back may make an expired session live again.
const indexes = `
local meta, log, ends, revoking = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local prefix = string.sub(meta, 1, -5)

-- Keys are declared in KEYS where the caller knows them. These are also made of ids from an index or
-- of whose a session is, which no caller can know; they share the hash tag with all others.
local function sessionKey(id) return prefix .. 'session:' .. id end
local function userKey(userId) return prefix .. 'user:' .. userId end
local function tenantKey(tenantId) return prefix .. 'tenant:' .. tenantId end

-- All of its owners, because nobody can ask the row once Redis has dropped it.
local function endsMember(id, userId, tenantId)
  return cjson.encode({ id, userId, tenantId or nil })
end

local function index(id, row)
  redis.call('ZADD', ends, text(row.idleEnd + ${keepEnded}), endsMember(id, row.userId, row.tenantId))
  redis.call('ZADD', userKey(row.userId), row.createdAt, id)
  if row.tenantId then redis.call('ZADD', tenantKey(row.tenantId), row.createdAt, id) end
end

local function unindex(id, userId, tenantId)
  redis.call('ZREM', ends, endsMember(id, userId, tenantId))
  redis.call('ZREM', userKey(userId), id)
  if tenantId then redis.call('ZREM', tenantKey(tenantId), id) end
end
`;

const ending = `
local function endSession(id, endedBy)
  local key = sessionKey(id)
  local row = redis.call('HMGET', key, 'userId', 'revokedAt', 'tenantId')
  if not row[1] or row[2] then return false end
  append(id, 'endedBy', endedBy)
  redis.call('HSET', key, 'revokedAt', text(now), 'endedBy', endedBy)
  redis.call('PEXPIREAT', key, text(now + ${keepEnded}))
  unindex(id, row[1], row[3])
  return true
end

-- A revokeAll of many takes their index away in one step and ends them in several. So that they
-- ended all at once for everyone, whoever touches one of them first ends it. The score -inf tells
-- that a session was ended on behalf of that revokeAll.
local doomed
local function endIfDoomed(id)
  doomed = doomed or redis.call('HGETALL', revoking)
  for each = 1, #doomed, 2 do
    local set = revoking .. ':' .. doomed[each]
    if redis.call('ZSCORE', set, id) and endSession(id, doomed[each + 1]) then
      redis.call('ZADD', set, '-inf', id)
    end
  end
end

local function isLive(id)
  endIfDoomed(id)
  local row = redis.call('HMGET', sessionKey(id), 'revokedAt', 'idleExpiresAt', 'expiresAt')
  return row[2] and not row[1] and tonumber(row[2]) > now and tonumber(row[3]) > now
end

-- Arguments that may be absent are '' then, or else begin with '='.
local function optional(arg)
  return arg ~= '' and string.sub(arg, 2) or nil
end
`;

/** Helpers of every script that touches sessions; their KEYS begin with meta, log, ends, revoking. */
export const rows: string = append + indexes + ending;

/** KEYS and nothing else; ARGV limit. Replies 'more' where there may be more. */
export const pruneIndexes: string = `
local due = redis.call('ZRANGEBYSCORE', ends, '-inf', '(' .. text(now), 'LIMIT', '0', ARGV[1])
for _, member in ipairs(due) do
  local id, userId, tenantId = unpack(cjson.decode(member))
  local row = redis.call('HMGET', sessionKey(id), 'idleExpiresAt', 'revokedAt')
  local gone = row[1] and not row[2] and tonumber(row[1]) + ${keepEnded}
  if gone and gone >= now then
    redis.call('ZADD', ends, text(gone), member)
  else
    unindex(id, userId, tenantId)
  end
end
return answer(#due == tonumber(ARGV[1]) and 'more' or '')
`;
