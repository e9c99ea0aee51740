-- hold(backend, seconds, single): keep a new connection waiting until a server of the backend can take it.
--
-- HAProxy closes a connection at once when no server is up. PgBouncer takes that for a failed login and from then on
-- refuses every query until a login succeeds: a failover would reach the applications as errors. A connection that
-- waits here is only slow: it goes on to the new primary as soon as there is one.
--
-- A server that counts as up may have died since its last check, so each is tried with a TCP connection first. A trial
-- that is refused ends late, as HAProxy repeats it three times, a second apart (CONN_RETRIES of hlua.c): trials are
-- tasks of their own that nobody waits for, and what one finds is good for all who wait for that server.
-- single = "single": wait also while more than one server counts as up. After a reload all servers count as up until
-- their first check, and a connection for the primary must not reach a replica.
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

local function usable(backend, single)
  local up = {}
  for _, server in pairs(core.backends[backend].servers) do
    if server:get_stats()["status"]:find("^UP") then
      up[#up + 1] = server
    end
  end
  if single and #up > 1 then
    return false
  end
  local found = false
  for _, server in ipairs(up) do
    found = answers(server) or found
  end
  return found
end

core.register_action("hold", { "tcp-req" }, function(txn, backend, seconds, single)
  local deadline, look = now() + tonumber(seconds), 0
  while not usable(backend, single == "single") and now() < deadline do
    look = look + 1
    core.msleep(LOOKS[look] or INTERVAL)
  end
end, 3)
