// See tiles.cpp.
#pragma once

#include "rows.h"

namespace polytask {

// Multiplies, where the machine has tiles and they fit what is multiplied; false where it was not done.
bool tiled(const Product&, Team&);

}  // namespace polytask
