/* What raise() throws: a running op's failure, on its way to its stream. */
#pragma once
#include <string>

namespace pd {
struct Failure { int status; std::string message; };
}  // namespace pd
