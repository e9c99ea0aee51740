-- SPDX-License-Identifier: Apache-2.0
-- hold(backend, seconds, single, otherwise): keep a new connection waiting until a server of the backend can take it, and
-- write down which one: the variable txn.member is for a rule use-server.
--
-- HAProxy closes a connection at once when no server is up. PgBouncer takes that for a failed login and from then on
-- refuses every query until a login succeeds: a failover would reach the applications as errors. A connection that
-- waits here is only slow: it goes on to the new primary as soon as there is one.
--
-- A server that counts as up may have died since its last check, so each is tried with a TCP connection first, and only one
-- that answered is chosen. What would otherwise be sent to a host that is gone waits for the connection's timeout; and where
-- that server is marked down meanwhile, HAProxy 3.0 neither closes such a connection nor sends it elsewhere, ever. A trial
-- that is refused ends late, as HAProxy repeats it three times, a second apart (CONN_RETRIES of hlua.c): trials are
-- tasks of their own that nobody waits for, and what one finds is good for all who wait for that server.
-- single = "single": wait also while more than one server counts as up. After a reload all servers count as up until
-- their first check, and a connection for the primary must not reach a replica.
-- otherwise: the backend, of one server, that is used while no server of the first counts as up; "none" if there is none.
-- After `seconds` the connection goes on its way, whatever becomes of it.

local LOOKS = { 1, 1, 2, 5, 10, 20 }  -- milliseconds between the first looks,
local INTERVAL = 50                   -- and between all others
local EVERY = 0.1                     -- seconds between two trials of a server, and for which a success holds
local AT_ONCE = 40                    -- trials of one server that may be under way

local trials = {}  -- by address: when the last one began, when one succeeded, how many are under way

local function now()
  local time = core.now()
  return time.sec + time.usec / 1e6
end

local function try(trial, address, port)
  local socket = core.tcp()
  local connected = socket:connect(address, port)
  socket:close()
  trial.running = trial.running - 1
  if connected then
    trial.succeeded = now()
  end
end

local function answers(server)
  local where = server:get_addr()
  local trial = trials[where] or { began = 0, succeeded = 0, running = 0 }
  trials[where] = trial
  local time = now()
  if time - trial.succeeded < EVERY then
    return true
  end
  if time - trial.began >= EVERY and trial.running < AT_ONCE then
    local address, port = where:match("^(.*):(%d+)$")
    trial.began, trial.running = time, trial.running + 1
    core.register_task(try, trial, address, tonumber(port))
  end
  return false
end

-- The server that can take a connection and has the fewest, nil where there is none, and how many count as up.
local function choose(backend, single)
  local up, best = {}, nil
  for _, server in pairs(core.backends[backend].servers) do
    local stats = server:get_stats()
    if stats["status"]:find("^UP") then
      up[#up + 1] = { server = server, now = stats["scur"], ever = stats["stot"] }
    end
  end
  if single and #up > 1 then
    return nil, #up
  end
  for _, each in ipairs(up) do
    if answers(each.server)
        and (not best or each.now < best.now or each.now == best.now and each.ever < best.ever) then
      best = each
    end
  end
  return best and best.server:get_name(), #up
end

core.register_action("hold", { "tcp-req" }, function(txn, backend, seconds, single, otherwise)
  local deadline, look = now() + tonumber(seconds), 0
  while true do
    local name, up = choose(backend, single == "single")
    if up == 0 and core.backends[otherwise] then
      name = choose(otherwise, true)
    end
    if name then
      txn:set_var("txn.member", name)
    end
    if name or now() >= deadline then
      return
    end
    look = look + 1
    core.msleep(LOOKS[look] or INTERVAL)
  end
end, 4)
