"""The forms for customers."""

from __future__ import annotations

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.contrib.auth.models import User


class SignUpForm(UserCreationForm):
    """Open an account."""

    email = forms.EmailField()

    class Meta(UserCreationForm.Meta):
        model = User
        fields = ("username", "email")


class EmailForm(forms.Form):
    """Order the newsletter."""

    email = forms.EmailField(widget=forms.EmailInput(attrs={"autocomplete": "email"}))


class OrderForm(EmailForm):
    """Order a product."""

    coupon = forms.CharField(label="Coupon, if you have one", max_length=40, required=False)
