# Included by CMake at the end of project(). The wheels of ROS name folders of the machine that built them, such as its Python's,
# as folders of headers; CMake refuses targets whose folders are not there.
function(drop_folders_of_the_builder)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders)
      list(FILTER folders EXCLUDE REGEX "^/opt/python/")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL drop_folders_of_the_builder)
