-- The health of a NodeDatapath: whether the node's kernel was read back and holds what
-- its agent has read.
if obj.status ~= nil and obj.status.conditions ~= nil then
  for _, condition in ipairs(obj.status.conditions) do
    if condition.type == "Enforced" then
      local health = { status = "Degraded", message = condition.reason .. ": " .. condition.message }
      if condition.status == "True" then
        health.status = "Healthy"
      end
      return health
    end
  end
end
return { status = "Progressing", message = "the agent has yet to report" }
