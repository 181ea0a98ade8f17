-- The health of a NodePortPolicy, NodePortPool, CloudFirewall or Portreeve, as its
-- conditions say. Argo CD gives a script no string library.
local health = { status = "Progressing", message = "Portreeve has yet to look at it" }
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready, stalled = conditions.Ready, conditions.Stalled
if ready == nil then
  return health
end
health.message = ready.reason .. ": " .. ready.message
if stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded" -- a person must act
  health.message = stalled.reason .. ": " .. stalled.message
elseif ready.status == "True" then
  health.status = "Healthy"
  for _, abnormal in ipairs({ "Shadowed", "Conflict", "Unanswered", "Overlaps", "OutOfRange", "Exhausted" }) do
    local condition = conditions[abnormal]
    if condition ~= nil and condition.status == "True" then
      health.message = health.message .. "; but " .. abnormal .. ": " .. condition.message
    end
  end
elseif ready.reason == "Lockdown" or ready.reason == "Observing" then
  health.status = "Suspended" -- as wished by a person, until that is taken back
end
return health
