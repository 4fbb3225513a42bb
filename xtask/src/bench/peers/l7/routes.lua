-- Requests for as many of the routes as there are, in an order that no cache knows beforehand.
local requests, at = {}, 0
init = function(arguments)
  local routes = tonumber(arguments[1])
  for i = 1, 1000 do
    requests[i] = wrk.format("GET", string.format("/r/%05d/x", (i * 7919) % routes))
  end
end
request = function()
  at = at % 1000 + 1
  return requests[at]
end
