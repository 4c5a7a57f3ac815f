"""What PyInstaller cannot see: the guardian and the installers are imported by name."""

hiddenimports = [
    "patchify.client.file_installer",
    "patchify.client.folder_installer",
    "patchify.client.guardian",
]
