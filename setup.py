from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="django-affiliate-tracking",
    version="1.0.0.dev0",
    description=(
        "Track which partner referred a visitor, and call the partner back when the visitor "
        "does what was agreed."
    ),
    long_description=Path(__file__).with_name("README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="Saxo Publish",
    license_expression="BSD-3-Clause",
    license_files=["LICENSE"],
    keywords=["django", "affiliate", "tracking", "referral", "callback", "postback"],
    packages=find_packages(include=["affiliations", "affiliations.*"]),
    package_data={
        "affiliations": [
            "py.typed",
            "locale/*/LC_MESSAGES/*.mo",
            "static/**/*",
            "templates/**/*",
        ]
    },
    python_requires=">=3.10",
    install_requires=[
        "Babel>=2.12.1",
        "Django>=5.2",
        "django-tls>=0.0.2",
        # With Werkzeug 1 the request of django-tls is kept by thread, and an async view sees
        # another user's request.
        "Werkzeug>=2",
        "requests>=2.32.3",
        "requests-hardened>=1.3",
        # Older releases compile 600 patterns for each call of is_crawler.
        "crawler-user-agents>=0.13",
        # Older releases ask for setuptools without saying so, or fail on Python 3.12.
        "pygal>=3.0.5",
    ],
    extras_require={
        "celery": ["celery>=5.5"],
        # Django has tasks of its own from 6.0 on, and makes no use of django-tasks then. No marker
        # can tell one Django from another.
        "tasks": ["django-tasks>=0.12", "django-tasks-db>=0.12"],
    },
    # Only what the tests are run with is listed here.
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: Django",
        "Framework :: Django :: 5.2",
        "Framework :: Django :: 6.0",
        "Framework :: Django :: 6.1",
        "Intended Audience :: Developers",
        "Operating System :: OS Independent",
        "Programming Language :: Python",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
)
