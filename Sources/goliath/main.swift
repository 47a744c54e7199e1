print("goliath")
