# clonefs_layer(NAME LIBRARIES...): the folder's *.cc as the static library clonefs_NAME. A layer links
# the layer below, never one above; tests/layers_test.py holds the includes to the same rule.
function(clonefs_layer name)
  file(GLOB sources CONFIGURE_DEPENDS *.cc)
  if(sources)
    add_library(clonefs_${name} STATIC ${sources})
    target_link_libraries(clonefs_${name} PUBLIC clonefs_options ${ARGN})
  else()  # headers only
    add_library(clonefs_${name} INTERFACE)
    target_link_libraries(clonefs_${name} INTERFACE clonefs_options ${ARGN})
  endif()
endfunction()
