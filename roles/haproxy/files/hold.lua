-- hold(backend, seconds, single): keep a new connection waiting until a server of the backend can take it.
--
-- HAProxy closes a connection at once when no server is up. PgBouncer takes that for a failed login and from then on
-- refuses every query until a login succeeds: a failover would reach the applications as errors. A connection that
-- waits here is only slow: it goes on to the new primary as soon as there is one.
--
-- A server that counts as up may have died since its last check, so each is tried with a TCP connection first.
-- single = "single": wait also while more than one server counts as up. After a reload all servers count as up until
-- their first check, and a connection for the primary must not reach a replica.
-- After `seconds` the connection goes on its way, whatever becomes of it.

local INTERVAL = 50       -- milliseconds between looks
local TCP_TIMEOUT = 1     -- seconds for the trial connection

local function answers(server)
  local address, port = server:get_addr():match("^(.*):(%d+)$")
  local socket = core.tcp()
  socket:settimeout(TCP_TIMEOUT)
  local connected = socket:connect(address, tonumber(port))
  socket:close()
  return connected
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
  for _, server in ipairs(up) do
    if answers(server) then
      return true
    end
  end
  return false
end

core.register_action("hold", { "tcp-req" }, function(txn, backend, seconds, single)
  local deadline = core.now().sec + tonumber(seconds)
  while not usable(backend, single == "single") and core.now().sec < deadline do
    core.msleep(INTERVAL)
  end
end, 3)
