typedef int kd_placeholder_type;
