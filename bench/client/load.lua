-- The load of one workload: sends the requests of a file in turn, and counts.
-- Knows: wrk, the file's form (a length on a line of its own, then that many bytes, repeated).
-- Must not know: what the requests are.

local requests, turn = {}, 0

function init(args)
    local file = assert(io.open(args[1], "rb"))
    for line in file:lines() do
        requests[#requests + 1] = file:read(tonumber(line))
    end
    file:close()
    if #requests == 1 then
        wrk.format = function() return requests[1] end -- taken once: nothing in Lua runs for each request
    else
        request = function()
            turn = turn % #requests + 1
            return requests[turn]
        end
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %d, "p99_us": %d, ' ..
        '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
        summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99),
        errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
