-- nocloud.lua SEED PLAN: turns the NoCloud files in SEED into plain files in PLAN that the boot script carries out.
-- It prints one line for each thing that it cannot read (`error ...`) or does not implement (`ignored ...`).
local yaml = require "lyaml"
local SEED, PLAN = arg[1], arg[2]

local function say(...) print(string.format(...)) end
local function quote(text) return "'" .. tostring(text):gsub("'", [['\'']]) .. "'" end
local function shell(...) return os.execute(string.format(...)) end

local function read(name)
  local file = io.open(SEED .. "/" .. name, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

local function write(path, text, mode)
  shell("mkdir -p %s", quote(path:match("^(.*)/") or "/"))
  local file, reason = io.open(path, mode or "wb")
  if not file then say("error cannot write %s: %s", path, reason) return false end
  file:write(text)
  file:close()
  return true
end

-- parse(text, what): the document as a table; nil, after saying why, if it is not a mapping.
local function parse(text, what)
  local ok, value = pcall(yaml.load, text)
  if not ok then say("error %s: %s", what, (tostring(value):gsub("[\r\n]+", " "))) return nil end
  if value == nil or value == yaml.null then return {} end
  if type(value) ~= "table" then say("error %s: not a mapping", what) return nil end
  return value
end

local function list(value)
  if value == nil or value == yaml.null then return {} end
  return type(value) == "table" and value or { value }
end

local function truth(value) return value == true or value == "yes" or value == "true" end

---------------------------------------------------------------- user-data
local base64 = function(text)
  local path = os.tmpname()
  write(path, (text:gsub("%s", "")))
  local pipe = io.popen("base64 -d < " .. path, "r")
  local out = pipe:read("a")
  pipe:close()
  os.remove(path)
  return out
end
local function gunzip(data)
  local path = os.tmpname()
  write(path, data)
  local pipe = io.popen("gunzip -c < " .. path, "r")
  local out = pipe:read("a")
  pipe:close()
  os.remove(path)
  return out
end

-- parts(text): the bodies of a MIME multipart archive, or the text itself as the only one.
local function parts(text, found)
  found = found or {}
  text = text:gsub("\r\n", "\n")
  local head, body = text:match("^(.-\n)\n(.*)$")
  if not (head and head:lower():match("content%-type:") and not text:match("^#")) then
    found[#found + 1] = text
    return found
  end
  local unfolded = head:gsub("\n[ \t]+", " ")
  local boundary = unfolded:match('[Bb]oundary="([^"]+)"') or unfolded:match("[Bb]oundary=([^;%s]+)")
  if not boundary then
    if unfolded:lower():match("content%-transfer%-encoding:%s*base64") then body = base64(body) end
    found[#found + 1] = body
    return found
  end
  local mark, pieces, at = "\n--" .. boundary, {}, 1
  body = "\n" .. body
  while true do
    local from, to = body:find(mark, at, true)
    if not from then break end
    pieces[#pieces + 1] = { from, to }
    at = to + 1
  end
  for index = 1, #pieces - 1 do
    local piece = body:sub(pieces[index][2] + 1, pieces[index + 1][1]):gsub("^[^\n]*\n", "", 1)
    parts(piece, found)
  end
  return found
end

-- merge(into, part): as cloud-init does by default, a later part replaces a key, unless it asks to append lists.
local function merge(into, part)
  local append = yaml.dump({ part.merge_how or part.merge_type or "" }):match("append") ~= nil
  for key, value in pairs(part) do
    if append and type(value) == "table" and type(into[key]) == "table" and #into[key] > 0 then
      for _, item in ipairs(value) do table.insert(into[key], item) end
    else
      into[key] = value
    end
  end
end

local function read_user_data(text)
  local config, scripts = {}, {}
  if not text or text:match("^%s*$") then return config, scripts end
  if text:sub(1, 2) == "\31\139" then text = gunzip(text) end
  for index, part in ipairs(parts(text)) do
    if part:match("^#!") then
      scripts[#scripts + 1] = part
    elseif part:match("^#cloud%-config") then
      merge(config, parse(part, "user-data part " .. index) or {})
    else
      say("ignored user-data part %d: neither #cloud-config nor a script", index)
    end
  end
  return config, scripts
end

-- command(item): one entry of runcmd as a script; a list is an argument vector, a string is shell text.
local function command(item)
  if type(item) ~= "table" then return "#!/bin/sh\n" .. tostring(item) .. "\n" end
  local words = {}
  for _, word in ipairs(item) do words[#words + 1] = quote(word) end
  return "#!/bin/sh\nexec " .. table.concat(words, " ") .. "\n"
end

local function number_scripts(kind, scripts)
  for index, script in ipairs(scripts) do
    local path = string.format("%s/%s/%03d", PLAN, kind, index)
    write(path, script)
    shell("chmod 700 %s", path)
  end
end

local function write_file(entry)
  local content, encoding = entry.content or "", entry.encoding or ""
  if encoding:match("b64") or encoding:match("base64") then content = base64(content) end
  if encoding:match("gz") then content = gunzip(content) end
  if write(entry.path, content, truth(entry.append) and "ab" or "wb") then
    local mode = tostring(entry.permissions or "0644"):gsub("^0o", "")
    shell("chmod %s %s", quote(mode), quote(entry.path))
  end
end

local function add_keys(home, owner, keys)
  if #keys == 0 then return end
  write(home .. "/.ssh/authorized_keys", table.concat(keys, "\n") .. "\n", "ab")
  shell("chown -R %s %s; chmod 700 %s/.ssh; chmod 600 %s/.ssh/authorized_keys", owner, quote(home), home, home)
end

-- users(config, keys): root gets every key; each named user gets an account with its own and the common ones.
local function users(config, keys)
  local id, all = 1000, {}
  for _, key in ipairs(keys) do all[#all + 1] = key end
  for _, user in ipairs(list(config.users)) do
    if type(user) == "table" and user.name then
      local own = {}
      for _, key in ipairs(keys) do own[#own + 1] = key end
      for _, key in ipairs(list(user.ssh_authorized_keys)) do own[#own + 1] = key; all[#all + 1] = key end
      if user.name ~= "root" and tostring(user.name):match("^[%w_.-]+$") then
        local home = "/home/" .. user.name
        shell("mkdir -p %s", home)
        write("/etc/passwd", string.format("%s:x:%d:%d::%s:/bin/sh\n", user.name, id, id, home), "ab")
        write("/etc/group", string.format("%s:x:%d:\n", user.name, id), "ab")
        write("/etc/shadow", string.format("%s:*:19000:0:99999:7:::\n", user.name), "ab")
        add_keys(home, id .. ":" .. id, own)
        id = id + 1
      end
    end
  end
  add_keys("/root", "0:0", all)
end

local IMPLEMENTED = {
  hostname = 1, fqdn = 1, ssh_authorized_keys = 1, users = 1, runcmd = 1, bootcmd = 1, write_files = 1,
  merge_how = 1, merge_type = 1, preserve_hostname = 1, manage_etc_hosts = 1, prefer_fqdn_over_hostname = 1,
}

---------------------------------------------------------------- network-config
local lines = {}
local function line(...) lines[#lines + 1] = table.concat({ ... }, " ") end

local function prefix(netmask)
  local bits = 0
  for octet in tostring(netmask):gmatch("%d+") do
    local value = tonumber(octet)
    while value > 0 do bits = bits + value % 2; value = value // 2 end
  end
  return bits
end

local function name_servers(match, servers)
  for _, server in ipairs(list(servers)) do line(match, "dns", server) end
end

local function version2(config)
  for name, nic in pairs(config.ethernets or {}) do
    local match = "name:" .. name
    if nic.match and nic.match.macaddress then
      match = "mac:" .. nic.match.macaddress:lower()
    elseif nic.match and nic.match.name then
      match = "name:" .. nic.match.name
    end
    if nic["set-name"] then line(match, "name", nic["set-name"]) end
    if nic.mtu then line(match, "mtu", nic.mtu) end
    for _, address in ipairs(list(nic.addresses)) do
      line(match, "address", type(address) == "table" and next(address) or address)
    end
    if nic.gateway4 then line(match, "route", "default", nic.gateway4) end
    if nic.gateway6 then line(match, "route", "default", nic.gateway6) end
    for _, route in ipairs(list(nic.routes)) do line(match, "route", route.to, route.via or "", route.metric or "") end
    local dns = nic.nameservers or {}
    name_servers(match, dns.addresses)
    if #list(dns.search) > 0 then line(match, "search", table.concat(list(dns.search), " ")) end
    if truth(nic.dhcp4) then line(match, "dhcp4") end
    if truth(nic.dhcp6) then say("ignored network-config %s: dhcp6 (addresses come by router advertisement)", name) end
    line(match, "known")
  end
  for _, kind in ipairs { "bonds", "bridges", "vlans", "wifis" } do
    if config[kind] then say("ignored network-config %s", kind) end
  end
end

local function version1(config)
  for _, entry in ipairs(list(config.config)) do
    if entry.type == "physical" then
      local match = entry.mac_address and "mac:" .. entry.mac_address:lower() or "name:" .. tostring(entry.name)
      if entry.mac_address and entry.name then line(match, "name", entry.name) end
      if entry.mtu then line(match, "mtu", entry.mtu) end
      for _, subnet in ipairs(list(entry.subnets)) do
        if subnet.address then
          local address = tostring(subnet.address)
          if not address:find("/") and subnet.netmask then address = address .. "/" .. prefix(subnet.netmask) end
          line(match, "address", address)
        end
        if subnet.gateway then line(match, "route", "default", subnet.gateway) end
        for _, route in ipairs(list(subnet.routes)) do
          local to = tostring(route.network or route.destination)
          if not to:find("/") and route.netmask then to = to .. "/" .. prefix(route.netmask) end
          line(match, "route", to, route.gateway or "", route.metric or "")
        end
        name_servers(match, subnet.dns_nameservers)
        if tostring(subnet.type):match("^dhcp4?$") then line(match, "dhcp4") end
      end
      line(match, "known")
    elseif entry.type == "nameserver" then
      name_servers("name:*", entry.address)
    else
      say("ignored network-config type %s", entry.type)
    end
  end
end

local function read_network(text)
  local config = text and parse(text, "network-config")
  if not config or next(config) == nil then return end
  config = config.network or config
  if config.version == 2 then
    version2(config)
  elseif config.version == 1 then
    version1(config)
  else
    say("error network-config: version %s is neither 1 nor 2", tostring(config.version))
  end
end

---------------------------------------------------------------- all of it
local meta = parse(read("meta-data") or "", "meta-data") or {}
local config, scripts = read_user_data(read("user-data"))
for key in pairs(config) do
  if not IMPLEMENTED[key] then say("ignored cloud-config %s", key) end
end
local name = config.fqdn or config.hostname or meta["local-hostname"] or meta.hostname
if name then write(PLAN .. "/hostname", name .. "\n") end
if meta["instance-id"] then write(PLAN .. "/instance-id", meta["instance-id"] .. "\n") end

local keys = {}
local public = meta["public-keys"] or meta.public_keys
if type(public) == "string" then public = { public } end
for _, key in pairs(public or {}) do
  if type(key) == "table" then key = key["openssh-key"] or key[1] end
  if key then keys[#keys + 1] = key end
end
for _, key in ipairs(list(config.ssh_authorized_keys)) do keys[#keys + 1] = key end
users(config, keys)
for _, entry in ipairs(list(config.write_files)) do write_file(entry) end

local boot, run = {}, {}
for _, item in ipairs(list(config.bootcmd)) do boot[#boot + 1] = command(item) end
for _, item in ipairs(list(config.runcmd)) do run[#run + 1] = command(item) end
number_scripts("bootcmd", boot)
number_scripts("runcmd", run)
number_scripts("script", scripts)

read_network(read("network-config"))
if #lines > 0 then write(PLAN .. "/network", table.concat(lines, "\n") .. "\n") end
