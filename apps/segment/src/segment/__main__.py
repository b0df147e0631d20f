from segment.cli import main

raise SystemExit(main())
