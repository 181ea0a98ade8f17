-- The health of a NodePortAllocation, which has no status: what it says is in force is
-- said by its policy. A closed one goes by itself once it is proved closed and has
-- rested.
if obj.spec.state == "Closed" then
  return { status = "Progressing", message = "closed; the number becomes free when every node and cloud has proved it and it has rested" }
end
return { status = "Healthy", message = obj.spec.state }
